"""The papers that define what rank_lab computes and trains, as BibTeX.

Every entry was compared with the paper's own page, its DOI or arXiv record as others cite it, or the citation that its
authors ask for. A field that could not be compared is left out: an entry without pages is no mistake, one with wrong
pages is.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from rank_lab.errors import RankLabError

__all__ = ["DATA_SETS", "REFERENCES", "TRAINING_METHODS", "Reference", "bibtex"]


@dataclass(frozen=True)
class Reference:
    r"""One BibTeX entry.

    Parameters
    ----------
    key
        What ``\cite`` names.
    kind
        ``article``, ``inproceedings`` or ``misc``.
    author, title
        In ASCII, accents as LaTeX commands.
    year
        Of the version that is cited.
    venue
        Journal or proceedings; empty for a preprint.
    arxiv, doi
        Identifiers; empty where there is none.
    more
        Further fields, such as volume and pages.
    """

    key: str
    kind: str
    author: str
    title: str
    year: int
    venue: str = ""
    arxiv: str = ""
    doi: str = ""
    more: tuple[tuple[str, str], ...] = ()

    @property
    def fields(self) -> dict[str, str]:
        """All fields in the order in which they are printed."""
        container = {"article": "journal", "inproceedings": "booktitle"}.get(self.kind)
        found = {"author": self.author, "title": f"{{{self.title}}}", "year": str(self.year)}
        if container is not None and self.venue:
            found[container] = self.venue
        found |= dict(self.more)
        if self.arxiv:
            found |= {"eprint": self.arxiv, "archivePrefix": "arXiv"}
        return found | ({"doi": self.doi} if self.doi else {})


_ICLR = "International Conference on Learning Representations"
_PAGES = "pages"

_METHODS = (
    Reference("hu2022lora", "inproceedings", "Hu, Edward J. and Shen, Yelong and Wallis, Phillip and Allen-Zhu, Zeyuan and Li, Yuanzhi and Wang, Shean and Wang, Lu and Chen, Weizhu", "LoRA: Low-Rank Adaptation of Large Language Models", 2022, _ICLR, "2106.09685"),
    Reference("ding2023sora", "misc", "Ding, Ning and Lv, Xingtai and Wang, Qiaosen and Chen, Yulin and Zhou, Bowen and Liu, Zhiyuan and Sun, Maosong", "Sparse Low-rank Adaptation of Pre-trained Language Models", 2023, arxiv="2311.11696"),
    Reference("zhang2023adalora", "inproceedings", "Zhang, Qingru and Chen, Minshuo and Bukharin, Alexander and He, Pengcheng and Cheng, Yu and Chen, Weizhu and Zhao, Tuo", "Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning", 2023, _ICLR, "2303.10512"),
    Reference("liu2024dora", "misc", "Liu, Shih-Yang and Wang, Chien-Yi and Yin, Hongxu and Molchanov, Pavlo and Wang, Yu-Chiang Frank and Cheng, Kwang-Ting and Chen, Min-Hung", "DoRA: Weight-Decomposed Low-Rank Adaptation", 2024, arxiv="2402.09353"),
    Reference("kalajdzievski2023rslora", "misc", "Kalajdzievski, Damjan", "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA", 2023, arxiv="2312.03732"),
    Reference("meng2024pissa", "misc", "Meng, Fanxu and Wang, Zhaohui and Zhang, Muhan", "PiSSA: Principal Singular Values and Singular Vectors Adaptation of Large Language Models", 2024, arxiv="2404.02948"),
    Reference("li2023loftq", "misc", "Li, Yixiao and Yu, Yifan and Liang, Chen and He, Pengcheng and Karampatziakis, Nikos and Chen, Weizhu and Zhao, Tuo", "LoftQ: LoRA-Fine-Tuning-Aware Quantization for Large Language Models", 2023, arxiv="2310.08659"),
    Reference("kopiczko2024vera", "misc", "Kopiczko, Dawid J. and Blankevoort, Tijmen and Asano, Yuki M.", "VeRA: Vector-based Random Matrix Adaptation", 2024, arxiv="2310.11454"),
    Reference("liu2022ia3", "inproceedings", "Liu, Haokun and Tam, Derek and Muqeeth, Mohammed and Mohta, Jay and Huang, Tenghao and Bansal, Mohit and Raffel, Colin", "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning", 2022, "Advances in Neural Information Processing Systems", "2205.05638", more=(("volume", "35"), (_PAGES, "1950--1965"))),
    Reference("benzaken2021bitfit", "misc", "Ben Zaken, Elad and Ravfogel, Shauli and Goldberg, Yoav", "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models", 2021, arxiv="2106.10199"),
    Reference("li2021prefix", "misc", "Li, Xiang Lisa and Liang, Percy", "Prefix-Tuning: Optimizing Continuous Prompts for Generation", 2021, arxiv="2101.00190"),
    Reference("lester2021prompt", "misc", "Lester, Brian and Al-Rfou, Rami and Constant, Noah", "The Power of Scale for Parameter-Efficient Prompt Tuning", 2021, arxiv="2104.08691"),
    Reference("houlsby2019adapter", "inproceedings", "Houlsby, Neil and Giurgiu, Andrei and Jastrzebski, Stanislaw and Morrone, Bruna and de Laroussilhe, Quentin and Gesmundo, Andrea and Attariyan, Mona and Gelly, Sylvain", "Parameter-Efficient Transfer Learning for NLP", 2019, "International Conference on Machine Learning", "1902.00751", more=((_PAGES, "2790--2799"),)),
    Reference("he2022unified", "inproceedings", "He, Junxian and Zhou, Chunting and Ma, Xuezhe and Berg-Kirkpatrick, Taylor and Neubig, Graham", "Towards a Unified View of Parameter-Efficient Transfer Learning", 2022, _ICLR, "2110.04366"),
    Reference("mahabadi2021compacter", "misc", "Mahabadi, Rabeeh Karimi and Henderson, James and Ruder, Sebastian", "Compacter: Efficient Low-Rank Hypercomplex Adapter Layers", 2021, arxiv="2106.04647"),
    Reference("hu2023llmadapters", "misc", "Hu, Zhiqiang and Wang, Lei and Lan, Yihuai and Xu, Wanyu and Lim, Ee-Peng and Bing, Lidong and Xu, Xing and Poria, Soujanya and Lee, Roy Ka-Wei", "LLM-Adapters: An Adapter Family for Parameter-Efficient Fine-Tuning of Large Language Models", 2023, arxiv="2304.01933"),
)  # fmt: skip

_QUANTITIES = (
    Reference("biderman2024lora", "article", "Biderman, Dan and Portes, Jacob and Gonzalez Ortiz, Jose Javier and Paul, Mansheej and Greengard, Philip and Jennings, Connor and King, Daniel and Havens, Sam and Chiley, Vitaliy and Frankle, Jonathan and Blakeney, Cody and Cunningham, John P.", "LoRA Learns Less and Forgets Less", 2024, "Transactions on Machine Learning Research", "2405.09673"),
    Reference("shuttleworth2024illusion", "misc", "Shuttleworth, Reece and Andreas, Jacob and Torralba, Antonio and Sharma, Pratyusha", "LoRA vs Full Fine-tuning: An Illusion of Equivalence", 2024, arxiv="2410.21228"),
    Reference("roy2007effective", "inproceedings", "Roy, Olivier and Vetterli, Martin", "The Effective Rank: A Measure of Effective Dimensionality", 2007, "15th European Signal Processing Conference", more=((_PAGES, "606--610"),)),
    Reference("rudelson2007sampling", "article", "Rudelson, Mark and Vershynin, Roman", "Sampling from Large Matrices: An Approach through Geometric Functional Analysis", 2007, "Journal of the ACM", doi="10.1145/1255443.1255449", more=(("volume", "54"), ("number", "4"))),
    Reference("ipsen2024stable", "misc", "Ipsen, Ilse C. F. and Saibaba, Arvind K.", "Stable Rank and Intrinsic Dimension of Real and Complex Matrices", 2024, arxiv="2407.21594"),
    Reference("gao2017dimensionality", "misc", "Gao, Peiran and Trautmann, Eric and Yu, Byron and Santhanam, Gopal and Ryu, Stephen and Shenoy, Krishna and Ganguli, Surya", "A Theory of Multineuronal Dimensionality, Dynamics and Measurement", 2017, doi="10.1101/214262", more=(("howpublished", "bioRxiv"),)),
    Reference("gavish2014threshold", "article", "Gavish, Matan and Donoho, David L.", r"The Optimal Hard Threshold for Singular Values is $4/\sqrt{3}$", 2014, "IEEE Transactions on Information Theory", "1305.5870", "10.1109/TIT.2014.2323359", (("volume", "60"), ("number", "8"), (_PAGES, "5040--5053"))),
    Reference("johnstone2001largest", "article", "Johnstone, Iain M.", "On the Distribution of the Largest Eigenvalue in Principal Components Analysis", 2001, "The Annals of Statistics", doi="10.1214/aos/1009210544", more=(("volume", "29"), ("number", "2"), (_PAGES, "295--327"))),
    Reference("clauset2009power", "article", "Clauset, Aaron and Shalizi, Cosma Rohilla and Newman, M. E. J.", "Power-Law Distributions in Empirical Data", 2009, "SIAM Review", doi="10.1137/070710111", more=(("volume", "51"), ("number", "4"), (_PAGES, "661--703"))),
    Reference("marchenko1967distribution", "article", "Marchenko, V. A. and Pastur, L. A.", "Distribution of Eigenvalues for Some Sets of Random Matrices", 1967, "Mathematics of the USSR-Sbornik", doi="10.1070/SM1967v001n04ABEH001994", more=(("volume", "1"), ("number", "4"), (_PAGES, "457--483"))),
    Reference("landa2022biwhitening", "misc", "Landa and Zhang and Kluger", "Biwhitening Reveals the Rank of a Count Matrix", 2022, arxiv="2103.13840"),
    Reference("landa2025dyson", "misc", "Landa, B. and Kluger, Y.", "The Dyson Equalizer: Adaptive Noise Stabilization for Low-Rank Signal Detection and Recovery", 2025, arxiv="2306.11263", doi="10.1093/imaiai/iaae036"),
    Reference("benaych2012singular", "article", "Benaych-Georges, Florent and Nadakuditi, Raj Rao", "The Singular Values and Vectors of Low Rank Perturbations of Large Rectangular Random Matrices", 2012, "Journal of Multivariate Analysis", "1103.2221", more=(("volume", "111"), (_PAGES, "120--135"))),
    Reference("eckart1936approximation", "article", "Eckart, Carl and Young, Gale", "The Approximation of One Matrix by Another of Lower Rank", 1936, "Psychometrika", doi="10.1007/BF02288367", more=(("volume", "1"), ("number", "3"), (_PAGES, "211--218"))),
    Reference("bjorck1973angles", "article", r"Bj{\"o}rck, {\AA}ke and Golub, Gene H.", "Numerical Methods for Computing Angles Between Linear Subspaces", 1973, "Mathematics of Computation", doi="10.1090/S0025-5718-1973-0348991-3", more=(("volume", "27"), ("number", "123"), (_PAGES, "579--594"))),
    Reference("shenfeld2025razor", "misc", "Shenfeld, Idan and Pari, Jyothish and Agrawal, Pulkit", "RL's Razor: Why Online Reinforcement Learning Forgets Less", 2025, arxiv="2509.04259"),
    Reference("zitzler1998multiobjective", "inproceedings", "Zitzler, Eckart and Thiele, Lothar", "Multiobjective Optimization Using Evolutionary Algorithms: A Comparative Case Study", 1998, "Parallel Problem Solving from Nature, PPSN V", doi="10.1007/BFb0056872", more=((_PAGES, "292--301"),)),
    Reference("freedman1983nonstochastic", "article", "Freedman, David and Lane, David", "A Nonstochastic Interpretation of Reported Significance Levels", 1983, "Journal of Business and Economic Statistics", doi="10.2307/1391660", more=(("volume", "1"), ("number", "4"), (_PAGES, "292--298"))),
    Reference("benjamini1995fdr", "article", "Benjamini, Yoav and Hochberg, Yosef", "Controlling the False Discovery Rate: A Practical and Powerful Approach to Multiple Testing", 1995, "Journal of the Royal Statistical Society, Series B", doi="10.1111/j.2517-6161.1995.tb02031.x", more=(("volume", "57"), ("number", "1"), (_PAGES, "289--300"))),
)  # fmt: skip

_DATA = (
    Reference("wang2019glue", "misc", "Wang, Alex and Singh, Amanpreet and Michael, Julian and Hill, Felix and Levy, Omer and Bowman, Samuel R.", "GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language Understanding", 2019, arxiv="1804.07461"),
    Reference("zellers2019hellaswag", "misc", "Zellers, Rowan and Holtzman, Ari and Bisk, Yonatan and Farhadi, Ali and Choi, Yejin", "HellaSwag: Can a Machine Really Finish Your Sentence?", 2019, arxiv="1905.07830"),
    Reference("clark2018arc", "misc", "Clark, Peter and Cowhey, Isaac and Etzioni, Oren and Khot, Tushar and Sabharwal, Ashish and Schoenick, Carissa and Tafjord, Oyvind", "Think you have Solved Question Answering? Try ARC, the AI2 Reasoning Challenge", 2018, arxiv="1803.05457"),
    Reference("sakaguchi2019winogrande", "misc", "Sakaguchi, Keisuke and Le Bras, Ronan and Bhagavatula, Chandra and Choi, Yejin", "WinoGrande: An Adversarial Winograd Schema Challenge at Scale", 2019, arxiv="1907.10641"),
    Reference("cobbe2021gsm8k", "misc", "Cobbe, Karl and Kosaraju, Vineet and Bavarian, Mohammad and Chen, Mark and Jun, Heewoo and Kaiser, Lukasz and Plappert, Matthias and Tworek, Jerry and Hilton, Jacob and Nakano, Reiichiro and Hesse, Christopher and Schulman, John", "Training Verifiers to Solve Math Word Problems", 2021, arxiv="2110.14168"),
)  # fmt: skip

REFERENCES: Mapping[str, Reference] = MappingProxyType({each.key: each for each in (*_METHODS, *_QUANTITIES, *_DATA)})
"""All entries by key, in the order in which they are printed."""

TRAINING_METHODS: Mapping[str, str] = MappingProxyType(
    {
        "full": "biderman2024lora", "bitfit": "benzaken2021bitfit", "lora": "hu2022lora",
        "rslora": "kalajdzievski2023rslora", "dora": "liu2024dora", "pissa": "meng2024pissa", "loftq": "li2023loftq",
        "adalora": "zhang2023adalora", "sora": "ding2023sora", "vera": "kopiczko2024vera", "ia3": "liu2022ia3",
        "prefix": "li2021prefix", "prompt": "lester2021prompt", "prelayer": "hu2022lora",
        "series": "houlsby2019adapter", "parallel": "he2022unified", "parallel_linear": "hu2023llmadapters",
        "compacter": "mahabadi2021compacter",
    }
)  # fmt: skip
"""Method of training to the key of its paper; of full fine-tuning, the comparison whose settings it has."""

_GLUE = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")

DATA_SETS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(_GLUE, "wang2019glue"), "hellaswag": "zellers2019hellaswag", "arc_challenge": "clark2018arc",
        "arc_easy": "clark2018arc", "winogrande": "sakaguchi2019winogrande", "gsm8k": "cobbe2021gsm8k",
    }
)  # fmt: skip
"""Task to the key of its paper."""


def bibtex(keys: Iterable[str]) -> str:
    """Entries as a BibTeX file, in ASCII.

    Parameters
    ----------
    keys
        Of :data:`REFERENCES`; each is printed once, in the order of that table.

    Raises
    ------
    RankLabError
        If a key is not known.

    Examples
    --------
    >>> print(bibtex(["kalajdzievski2023rslora"]))
    @misc{kalajdzievski2023rslora,
      author = {Kalajdzievski, Damjan},
      title = {{A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA}},
      year = {2023},
      eprint = {2312.03732},
      archivePrefix = {arXiv},
    }
    <BLANKLINE>
    """
    wanted = set(keys)
    unknown = sorted(wanted - set(REFERENCES))
    if unknown:
        raise RankLabError(f"reference {unknown[0]!r}: not in the table of references, rank_lab.references.REFERENCES.")
    return "\n".join(_entry(reference) for key, reference in REFERENCES.items() if key in wanted)


def _entry(reference: Reference) -> str:
    lines = [f"  {name} = {{{value}}}," for name, value in reference.fields.items()]
    return "\n".join([f"@{reference.kind}{{{reference.key},", *lines, "}\n"])
